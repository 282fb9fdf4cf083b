//go:build !linux

package testnet

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

const netnsDir = "/run/netns"

func unsupported(op string) error {
	return fmt.Errorf("testnet: %s on %s: %w", op, runtime.GOOS, errors.ErrUnsupported)
}

func inNamespace(string, func() error) error { return unsupported("network namespace") }

func removeNamespace(string) error { return unsupported("network namespace") }

func namespaces() []string { return nil }

func processesIn(string) []int { return nil }

func openSniffer(string, Filter) (int, error) { return -1, unsupported("packet socket") }

func snifferCount(int) (uint64, error) { return 0, unsupported("packet socket") }

func snifferRead(int, []byte) (int, bool) { return 0, false }

func closeSocket(int) {}

func blast(context.Context, Blast) (BlastResult, error) {
	return BlastResult{}, unsupported("sendmmsg")
}
