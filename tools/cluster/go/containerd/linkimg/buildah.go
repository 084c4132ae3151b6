package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is one of buildah's: its two documents as they were written, and the folder of each layer, lowest first.
type image struct {
	manifest, config []byte
	configDigest     digest.Digest
	diffs            []digest.Digest
	folders          []string
}

// The store's format is containers/storage's: overlay-images and overlay-layers hold an index as JSON each,
// overlay/LAYER/diff the files, and overlay-images/IMAGE the documents, their names in base64 after a "=".

func readImage(store, name string) (*image, error) {
	id, top, err := findImage(store, name)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(store, "overlay-images", id)
	found := &image{}
	if found.manifest, err = os.ReadFile(filepath.Join(folder, "manifest")); err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err = json.Unmarshal(found.manifest, &manifest); err != nil {
		return nil, err
	}
	found.configDigest = manifest.Config.Digest
	document := "=" + base64.StdEncoding.EncodeToString([]byte(found.configDigest.String()))
	if found.config, err = os.ReadFile(filepath.Join(folder, document)); err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err = json.Unmarshal(found.config, &config); err != nil {
		return nil, err
	}
	found.diffs = config.RootFS.DiffIDs
	if found.folders, err = layerFolders(store, top); err != nil {
		return nil, err
	}
	if len(found.folders) != len(found.diffs) {
		return nil, fmt.Errorf("%s: %d layers in the store, %d in its configuration", name, len(found.folders), len(found.diffs))
	}
	return found, nil
}

// findImage is an image's id in the store, and its top layer's.
func findImage(store, name string) (id, top string, err error) {
	var all []struct {
		ID, Layer string
		Names     []string
	}
	if err := readJSON(filepath.Join(store, "overlay-images", "images.json"), &all); err != nil {
		return "", "", err
	}
	for _, each := range all {
		for _, known := range each.Names {
			if known == name {
				return each.ID, each.Layer, nil
			}
		}
	}
	return "", "", fmt.Errorf("no image %s in %s", name, store)
}

func layerFolders(store, top string) ([]string, error) {
	var all []struct{ ID, Parent string }
	if err := readJSON(filepath.Join(store, "overlay-layers", "layers.json"), &all); err != nil {
		return nil, err
	}
	parents := map[string]string{}
	for _, each := range all {
		parents[each.ID] = each.Parent
	}
	var folders []string
	for layer := top; layer != ""; layer = parents[layer] {
		if _, known := parents[layer]; !known {
			return nil, fmt.Errorf("no layer %s in %s", layer, store)
		}
		folders = append([]string{filepath.Join(store, "overlay", layer, "diff")}, folders...)
	}
	return folders, nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
