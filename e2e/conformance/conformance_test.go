// Package conformance runs the Gateway API's conformance tests of a mesh. The pods of the tests run Istio's test application:
// see echo.go.
package conformance

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance"
	meshtests "sigs.k8s.io/gateway-api/conformance/tests/mesh"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestConformance runs the suite as its own program does, with every feature that a test of a mesh needs. Some of them belong to no
// profile of a mesh: their tests run too, and the report does not count them.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	supported := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	for _, test := range meshtests.MeshConformanceTests {
		supported.Insert(test.Features...)
	}
	options.SupportedFeatures = sets.List(supported)
	conformance.RunConformanceWithOptions(t, options)
}
