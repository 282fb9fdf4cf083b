// Package extverdict is the place where a program puts a verdict handler of its
// own: a Slot takes one handler, once, and the firewall asks it about new and
// re-evaluated connections before its own rules. Chain makes one handler of
// several.
package extverdict
