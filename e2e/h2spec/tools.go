//go:build tools

// Package h2spec names the program that tries HTTP/2 servers: go.mod and go.sum say which version of it, and of what it is made of.
// Later versions of h2spec have no module path that Go takes.
package h2spec

import _ "github.com/summerwind/h2spec/cmd/h2spec"
