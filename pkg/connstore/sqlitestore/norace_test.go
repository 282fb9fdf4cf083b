//go:build !race

package sqlitestore_test

const rowsInTests = 50_000
