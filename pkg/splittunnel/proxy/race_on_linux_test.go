//go:build race

package proxy_test

// raceEnabled: the race detector needs several times the memory.
const raceEnabled = true
