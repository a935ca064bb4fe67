// Package explain says what becomes of a packet and why.
//
// [Model] is the reference model of the packet path: slow, obvious, written from what gardu promises its users and
// from the help texts of the reasons, working on model.Snapshot values. It shares no code with the eBPF programs and
// knows nothing of their tables. The packet tests (testdata/*.txtar) and the differential test put the same packets
// through the model and through the programs on every hook, and expect the same verdicts, bytes and counters.
//
// [Explain] puts one packet through the real programs, on a private instance, and tells its way.
package explain
