// Package page is the web page that the daemon serves by TCP: what gardu does at this moment, for who has a browser at hand. It is a few
// files that are embedded, and reads the API like every other client; it changes nothing, loads nothing from elsewhere, and asks for
// nothing while it is hidden.
package page
