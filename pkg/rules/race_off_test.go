//go:build !race

package rules_test

// raceEnabled is set where times mean nothing.
const raceEnabled = false
