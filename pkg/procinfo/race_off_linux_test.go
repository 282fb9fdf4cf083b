//go:build !race

package procinfo

const raced = false
