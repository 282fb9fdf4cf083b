//go:build !windows

package config

// DefaultPath is where refd looks for its configuration.
const DefaultPath = "/etc/weir/refd.yaml"
