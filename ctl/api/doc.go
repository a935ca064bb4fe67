// Package api is how anybody but the daemon sees gardu: JSON over HTTP on a Unix socket. The types of this
// package are its wire format and their JSON names are promises; Engine is what answers, implemented by the
// daemon; Server puts an Engine on a socket; package api/client is the other end.
//
//	GET    /v1/status                          Status
//	GET    /v1/rules                           [Rule]
//	GET    /v1/sets                            [Set]
//	GET    /v1/services                        [Service]
//	GET    /v1/backends                        [Backend]
//	GET    /v1/blocks                          [Block]
//	POST   /v1/blocks            [BlockRequest]   [Block]   all or none; Problem.Entries says which are wrong
//	DELETE /v1/blocks?prefix=P&prefix=P        Unblocked
//	GET    /v1/flows?filter=EXPR&sort=KEY&limit=N   one Flow a line (NDJSON)
//	PUT    /v1/snapshot          ApplyRequest     ApplyResult
//	POST   /v1/plan              PlanRequest      Plan
//	POST   /v1/explain           ExplainRequest   Explanation
//
// The same readers, /metrics, /healthz and /readyz are served by TCP, to this machine alone, where the configuration says so.
//
// Every error is a Problem (RFC 9457, application/problem+json). Times are RFC 3339, durations are seconds,
// sizes are bytes, counters are plain numbers that only ever grow.
package api
