//go:build tools

// Package interop names the programs with which gRPC's own implementations are tried against each other: go.mod and go.sum say
// which version of them, and of what they are made of.
package interop

import (
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
