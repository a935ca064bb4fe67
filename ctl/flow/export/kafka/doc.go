// Package kafka sends reports of flows to a topic of a Kafka cluster, each a record whose value is a JSON object as package line writes it.
package kafka
