// Package connstoretest tests stores of connections: that each answers queries as the live one does.
package connstoretest
