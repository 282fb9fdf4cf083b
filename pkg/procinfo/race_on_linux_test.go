//go:build race

package procinfo

// raced tells that sync.Pool forgets at random, as it does under the race
// detector.
const raced = true
