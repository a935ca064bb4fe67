// Command vmtest boots other kernels in QEMU and runs gardu's kernel-facing tests and its demo there.
//
// On the host it fetches Debian's cloud kernels (once, into the cache), builds the static test binaries and an
// initramfs, and boots. The same binary is that initramfs's /init: as process 1 it mounts, loads the modules, runs the
// jobs, prints one result line each and powers off.
package main
