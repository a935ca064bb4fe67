// Package demo is `gardu demo`: the whole of gardu on one machine, in network namespaces of its own. A client, a
// hostile client and three backends with an HTTP server each talk through a real `gardu run`. Each step says what it
// does and is done only when what it promises was observed; what was not fails the demo.
package demo
