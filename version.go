// The version of the program, which the linker sets.
//
// Used by kube.go, health_http.go, http_metrics.go and main.go.

package main

// version is set by the linker (Makefile).
var version = "dev"
