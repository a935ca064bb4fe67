package api

import (
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// ConfigError is one error of a configuration, with the line that it is in.
type ConfigError struct {
	model.Position
	Message string `json:"message"`
	Text    string `json:"text,omitempty"`    // the line
	Allowed string `json:"allowed,omitempty"` // what would be right here
}

// Warning is a remark on a configuration that is valid.
type Warning struct {
	model.Position
	Message string `json:"message"`
	Text    string `json:"text,omitempty"` // the line
}

// Warnings makes what travels from what package config returns.
func Warnings(from []config.Warning) []Warning {
	var to []Warning
	for _, w := range from {
		to = append(to, Warning{w.Pos, w.Msg, w.Line})
	}
	return to
}

// String prints the place, the message and the line with a caret, as package config does.
func (w Warning) String() string {
	return config.Warning{Pos: w.Position, Msg: w.Message, Line: w.Text}.String()
}

func wireErrors(from config.Errors) []ConfigError {
	var to []ConfigError
	for _, e := range from {
		e = e.Discreet()
		to = append(to, ConfigError{e.Pos, e.Msg, e.Line, e.Allowed})
	}
	return to
}

func configErrors(from []ConfigError) config.Errors {
	var to config.Errors
	for _, e := range from {
		to = append(to, &config.Error{Pos: e.Position, Msg: e.Message, Allowed: e.Allowed, Line: e.Text})
	}
	return to
}
