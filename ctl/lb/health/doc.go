// Package health finds out which backends are up, by TCP connections, HTTP requests, UDP packets, DNS queries and pings to the
// backends' own addresses.
//
// A backend starts as not known yet and gets traffic, as in HAProxy: most backends are up most of the time, and the
// first check follows within a second. The first result decides at once; from then on `up` successes in a row make a
// backend up and `down` failures in a row make it down. Who restarts may pass on what was known before.
package health
