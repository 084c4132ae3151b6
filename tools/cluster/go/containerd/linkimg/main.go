// Command linkimg gives a containerd an image of buildah's store by hard links: nothing is packed, nothing copied.
//
//	linkimg --socket /run/c/containerd.sock localhost/halops-train:test
//
// It prints NAME@DIGEST. The image can be named by its tag and by that digest, as after a pull.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("linkimg: ")
	socket := flag.String("socket", "", "containerd's socket")
	store := flag.String("store", "/var/lib/containers/storage", "buildah's store, its driver is overlay")
	flag.Parse()
	named, err := load(*socket, *store, flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(named)
}

func load(socket, store, name string) (string, error) {
	image, err := readImage(store, name)
	if err != nil {
		return "", err
	}
	client, err := containerd.New(socket)
	if err != nil {
		return "", err
	}
	defer client.Close()
	// Kubernetes' namespace; the lease keeps the collector off until a record points at what we write
	ctx, release, err := client.WithLease(namespaces.WithNamespace(context.Background(), "k8s.io"))
	if err != nil {
		return "", err
	}
	defer release(ctx)
	top, err := linkLayers(ctx, client.SnapshotService("overlayfs"), image)
	if err != nil {
		return "", err
	}
	target, err := writeContent(ctx, client.ContentStore(), image, top)
	if err != nil {
		return "", err
	}
	return record(ctx, client.ImageService(), name, image, target)
}

// writeContent stores the image's own manifest and configuration. The layers' blobs exist nowhere: snapshots stand in.
func writeContent(
	ctx context.Context, store content.Store, image *image, top digest.Digest,
) (ocispec.Descriptor, error) {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(image.manifest, &manifest); err != nil {
		return ocispec.Descriptor{}, err
	}
	snapshot := map[string]string{"containerd.io/gc.ref.snapshot.overlayfs": top.String()}
	if err := write(ctx, store, manifest.Config, image.config, snapshot); err != nil {
		return ocispec.Descriptor{}, err
	}
	target := ocispec.Descriptor{
		MediaType: manifest.MediaType, Digest: digest.FromBytes(image.manifest), Size: int64(len(image.manifest)),
	}
	if target.MediaType == "" {
		target.MediaType = ocispec.MediaTypeImageManifest
	}
	config := map[string]string{"containerd.io/gc.ref.content.config": manifest.Config.Digest.String()}
	return target, write(ctx, store, target, image.manifest, config)
}

func write(
	ctx context.Context, store content.Store, blob ocispec.Descriptor, data []byte, labels map[string]string,
) error {
	key := "linkimg-" + blob.Digest.String()
	return content.WriteBlob(ctx, store, key, bytes.NewReader(data), blob, content.WithLabels(labels))
}

// record names the image as the CRI does after a pull: by tag, by digest, by the configuration's digest.
func record(
	ctx context.Context, store images.Store, name string, image *image, target ocispec.Descriptor,
) (string, error) {
	tagged, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(tagged), target.Digest)
	if err != nil {
		return "", err
	}
	for _, each := range []string{tagged.String(), byDigest.String(), image.configDigest.String()} {
		made := images.Image{Name: each, Target: target, Labels: map[string]string{"io.cri-containerd.image": "managed"}}
		if _, err = store.Create(ctx, made); errdefs.IsAlreadyExists(err) {
			_, err = store.Update(ctx, made)
		}
		if err != nil {
			return "", err
		}
	}
	return byDigest.String(), nil
}
