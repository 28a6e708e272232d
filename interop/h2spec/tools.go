//go:build tools

// Package h2spec pins the conformance tests of HTTP/2 that interop/run puts to a node's client port.
package h2spec

import _ "github.com/summerwind/h2spec/cmd/h2spec"
