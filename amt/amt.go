// Package amt holds Intel's words as Go types: what a hello, a WS-MAN answer
// and an operator all speak of. It imports nothing of this module, does no
// input or output, and each of its parsers refuses what it does not understand.
package amt
