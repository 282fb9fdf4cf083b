// Package connstore keeps connections and answers questions about them. Live is
// the table that the packet path looks connections up in, with the ones that
// ended lately.
package connstore
