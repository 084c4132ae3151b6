package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// linkLayers makes a committed snapshot of each layer that the snapshotter lacks; it returns the top one's name.
func linkLayers(ctx context.Context, store snapshots.Snapshotter, image *image) (digest.Digest, error) {
	var parent digest.Digest
	for i, folder := range image.folders {
		name := identity.ChainID(image.diffs[:i+1])
		if err := linkLayer(ctx, store, folder, name.String(), parent.String()); err != nil {
			return "", err
		}
		parent = name
	}
	return parent, nil
}

func linkLayer(ctx context.Context, store snapshots.Snapshotter, folder, name, parent string) error {
	if _, err := store.Stat(ctx, name); !errdefs.IsNotFound(err) {
		return err // it is there, or there is something wrong
	}
	key := fmt.Sprintf("linkimg-%d-%s", os.Getpid(), name)
	mounts, err := store.Prepare(ctx, key, parent)
	if err != nil {
		return err
	}
	if err = link(folder, upper(mounts)); err == nil {
		err = store.Commit(ctx, name, key, snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": name}))
	}
	if err != nil {
		_ = store.Remove(ctx, key)
	}
	if errdefs.IsAlreadyExists(err) { // somebody else was faster
		return nil
	}
	return err
}

// upper is the folder that a prepared snapshot's files go to: a bind mount's source where there is no parent.
func upper(mounts []mount.Mount) string {
	for _, option := range mounts[0].Options {
		if folder, found := strings.CutPrefix(option, "upperdir="); found {
			return folder
		}
	}
	return mounts[0].Source
}

// link fills a folder with another's tree: hard links to its files, or copies where the two lie on different disks.
func link(from, to string) error {
	var a, b syscall.Stat_t
	if err := syscall.Stat(from, &a); err != nil {
		return err
	}
	if err := syscall.Stat(to, &b); err != nil {
		return err
	}
	options := "-al"
	if a.Dev != b.Dev {
		options = "-a"
	}
	if out, err := exec.Command("cp", options, from+"/.", to+"/").CombinedOutput(); err != nil {
		return fmt.Errorf("cp %s: %w: %s", options, err, out)
	}
	return nil
}
