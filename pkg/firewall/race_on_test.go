//go:build race

package firewall_test

// raceEnabled is set where figures mean nothing.
const raceEnabled = true
