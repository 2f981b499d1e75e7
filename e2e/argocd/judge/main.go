// Command judge prints the status that tools around a cluster compute for objects.
//
//	judge kstatus < object.json   prints the status of an object by kstatus (Flux, kpt), a tab, and the message
//	judge lua FOLDER              runs every health_test.yaml below the folder, in the layout of Argo CD's
//	                              resource_customizations, with Argo CD's own Lua engine
package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "kstatus":
		return kstatus()
	case len(arguments) == 2 && arguments[0] == "lua":
		return testAll(arguments[1])
	default:
		return fmt.Errorf("usage: judge kstatus < object.json, or judge lua FOLDER")
	}
}

func kstatus() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(text); err != nil {
		return err
	}
	result, err := status.Compute(&object)
	if err != nil {
		return err
	}
	fmt.Printf("%s\t%s\n", result.Status, result.Message)
	return nil
}

type healthTest struct {
	InputPath    string              `json:"inputPath"`
	HealthStatus health.HealthStatus `json:"healthStatus"`
}

func testAll(root string) error {
	count := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "health.lua" {
			return err
		}
		tests, err := testScript(path)
		count += tests
		return err
	})
	if err == nil && count == 0 {
		err = fmt.Errorf("no health.lua below %s", root)
	}
	return err
}

func testScript(path string) (int, error) {
	script, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	folder := filepath.Dir(path)
	var all struct {
		Tests []healthTest `json:"tests"`
	}
	if err := read(filepath.Join(folder, "health_test.yaml"), &all); err != nil {
		return 0, err
	}
	for _, test := range all.Tests {
		var object unstructured.Unstructured
		if err := read(filepath.Join(folder, test.InputPath), &object.Object); err != nil {
			return 0, err
		}
		// Without Lua's libraries, as Argo CD runs scripts that a user configures.
		result, err := (lua.VM{}).ExecuteHealthLua(&object, string(script))
		if err != nil {
			return 0, fmt.Errorf("%s with %s: %w", path, test.InputPath, err)
		}
		if *result != test.HealthStatus {
			return 0, fmt.Errorf("%s with %s: %+v, not %+v", path, test.InputPath, *result, test.HealthStatus)
		}
		fmt.Printf("%s/%s: %s\n", filepath.Base(folder), filepath.Base(test.InputPath), result.Status)
	}
	return len(all.Tests), nil
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
