// Package fold makes of a program and the values of its load-time constants the program that is left with these values: an object goes in as
// it was compiled, and goes out without what is off. It is a pure function of instructions. The kernel's own pass leaves the loads of the
// constants where they are, some forty a packet, and takes long over an object most of which is off.
package fold
