// Package refd wires the SDK's packages into the reference daemon.
package refd
