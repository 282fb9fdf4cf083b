// Package sqlitestore keeps connections in an SQLite database: Store is the database, and Recorder writes what a connstore.Live has
// into one, off the packet path. A Store answers the same queries as the live table, in the same way.
//
// What queries select, sort and add up by is held in memory too, about 100 bytes of it for each connection; the database is read
// for the connections of a page only.
package sqlitestore
