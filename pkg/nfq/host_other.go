//go:build !linux

package nfq

import "github.com/weirfw/weir/pkg/intercept"

func openHost(HostConfig, intercept.Traffic) (hostControl, error) {
	return nil, supported("load rules")
}

func openCutter() (cutter, error) { return nil, supported("close a socket") }
