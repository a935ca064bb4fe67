// Package parquet writes rows to an Apache Parquet file, for engines such as DuckDB and ClickHouse: in row groups, so that it takes the
// same memory however many rows there are.
package parquet
