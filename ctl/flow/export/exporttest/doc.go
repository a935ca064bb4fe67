// Package exporttest decodes IPFIX messages with goflow2, for tests of what sends them.
package exporttest
