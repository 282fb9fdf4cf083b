//go:build !race

package sqlitestore_test

const rowsInTests = 20_000
