// Command kube is upstream Kubernetes in one binary: etcd, every component of the control plane and of a node, and
// kubectl. The name it is called by, or else its first argument, selects the component.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// components maps the name of a component to its entry point, which reads os.Args and returns the exit status.
var components = map[string]func() int{
	"etcd":                    etcd,
	"kube-apiserver":          apiServer,
	"kube-controller-manager": controllerManager,
	"kube-proxy":              proxy,
	"kube-scheduler":          scheduler,
	"kubectl":                 kubectl,
	"kubelet":                 kubelet,
}

func main() {
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	if len(os.Args) > 1 {
		if run, ok := components[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			os.Exit(run())
		}
	}
	names := slices.Sorted(maps.Keys(components))
	fmt.Fprintf(os.Stderr, "usage: %s COMPONENT [ARGS]\ncomponents: %s\n", filepath.Base(os.Args[0]), strings.Join(names, ", "))
	os.Exit(2)
}
