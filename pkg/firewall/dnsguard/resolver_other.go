//go:build !linux && !windows

package dnsguard

import "github.com/weirfw/weir/pkg/conn"

// isSystemResolver knows no resolver here: nothing passes because of it.
func isSystemResolver(*conn.Process) bool { return false }

func isService(*conn.Process) bool { return false }
