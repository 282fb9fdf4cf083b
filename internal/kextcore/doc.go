// Package kextcore is what the backends for both protocols of the Windows driver share: a session that reads packets, lets a
// handler decide, gives each packet its one verdict and does the housekeeping. A Protocol says it in the driver's words.
//
// Nothing in here knows Windows: all of it runs, and is tested, on every system.
package kextcore
