//go:build tools

// Package actionlint names the program that checks the workflows in .github: go.mod and go.sum fix its version and its dependencies.
package actionlint

import _ "github.com/rhysd/actionlint/cmd/actionlint"
