// Package plan says what putting another snapshot in force would change: objects and their keys, and how much of each
// service's ring goes to another backend. It is pure: what it is given are snapshots, rings and what is known of backends.
package plan
