//go:build tools

// Package flagger names the program that drives a canary: go.mod and go.sum say which version of it, and of what it is made of.
package flagger

import _ "github.com/fluxcd/flagger/cmd/flagger"
