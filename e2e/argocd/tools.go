//go:build tools

// Package argocd names the programs of Argo CD that tests run: go.mod and go.sum hold their versions.
package argocd

import _ "github.com/argoproj/argo-cd/v3/cmd"
