// Package metric shows gardu to Prometheus: what status, rules, sets, services and backends count, with names that follow
// its conventions. Nothing is counted here but handshake times, of reported flows; a scrape reads what the API's readers read,
// which no packet waits for. How many series there are is for the configuration to say, never for traffic: a rule, a set, a
// service, a backend and an interface has its own, a flow or an address never.
package metric
