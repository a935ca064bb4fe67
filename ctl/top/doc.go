// Package top shows live what flows do: the screen of `gardu top` on a terminal, and the same as plain text elsewhere.
//
// A Frame is what happened between two readings, all of it rates. The screen is a pure function of a frame, of what the
// person chose, and of the terminal's size; Run draws it again when one of the three changes.
package top
