// Package filterlist holds large lists of domains, addresses and networks, as they are published for blocking, in little memory.
//
// A [List] is read by [Parse] from text with one entry a line, and does not change afterwards. [List.HasName] and [List.HasAddr] cost a
// few lookups in a table and allocate nothing; a million names take about 40 MB.
//
// # Format
//
// What stands behind "#", and lines that begin with "!", are for people. An entry is one of
//
//	example.org          that name
//	*.example.org        the names below it
//	.example.org         both; also written ||example.org^
//	192.0.2.1            an address
//	2001:db8::/32        a network
//	192.0.2.1-192.0.2.9  a range of addresses
//	0.0.0.0 a.test b.test  these names, as in a hosts file, behind an address of this host or an unspecified one
//
// International names are written in their ASCII form (xn--...). Lists come from everywhere and have mistakes: what is no entry is left
// out and counted, and the first of them are kept for people.
package filterlist
