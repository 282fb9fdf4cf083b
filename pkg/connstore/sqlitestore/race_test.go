//go:build race

package sqlitestore_test

// rowsInTests is few: the race detector makes SQLite, which is C in Go's words here, fifty times slower.
const rowsInTests = 6_000
