package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// nginxConfig gives the server's name, files from www, and takes uploads into up.
const nginxConfig = `
daemon off;
master_process off;
worker_processes 1;
pid %[1]s/%[2]s/pid;
error_log stderr warn;
events { worker_connections 512; }
http {
	access_log off;
	sendfile on;
	keepalive_requests 1000000000;
	client_max_body_size 0;
	client_body_temp_path %[1]s/%[2]s/body;
	proxy_temp_path %[1]s/%[2]s/proxy;
	fastcgi_temp_path %[1]s/%[2]s/fastcgi;
	uwsgi_temp_path %[1]s/%[2]s/uwsgi;
	scgi_temp_path %[1]s/%[2]s/scgi;
	server {
		listen 80;
		listen [::]:80;
		location = /name { return 200 "%[2]s"; }
		location /www/ { root %[1]s; }
		location /up/ { root %[1]s; dav_methods PUT; }
	}
}
`

// startWeb runs an nginx on every backend.
func (w *world) startWeb() {
	w.Helper()
	for _, dir := range []string{"www", "up"} {
		w.must(os.Mkdir(w.path(dir), 0o755))
	}
	for _, node := range w.backends {
		w.must(os.Mkdir(w.path(node.Name()), 0o755))
		conf := w.path(node.Name() + "/nginx.conf")
		w.must(os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, w.dir, node.Name()), 0o644))
		cmd := exec.Command("nginx", "-c", conf, "-p", w.path(node.Name()))
		cmd.Stderr = os.Stderr
		server, err := node.Start(cmd)
		w.must(err)
		w.until("nginx on "+node.Name(), func() error {
			select {
			case <-server.Done():
				w.Fatalf("nginx on %s ended: %v", node.Name(), server.Wait())
			default:
			}
			_, err := node.Output(w.Context(), "curl", "-sS", "--fail", "--max-time", "2", "http://127.0.0.1/name")
			return err
		})
	}
}

// file makes a file of random bytes that nginx offers, and returns its path and the sum of its content.
func (w *world) file(name string, size int64) (path, sum string) {
	w.Helper()
	path = w.path("www/" + name)
	f, err := os.Create(path)
	w.must(err)
	defer f.Close()
	hash := sha256.New()
	random := rand.NewChaCha8([32]byte{1: 7})
	_, err = io.CopyN(io.MultiWriter(f, hash), random, size)
	w.must(err)
	return path, hex.EncodeToString(hash.Sum(nil))
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// transfer is one curl.
type transfer struct {
	args []string
	got  string // file to compare with what was sent
}

// download fetches /www/NAME, upload sends PATH; limit is curl's --limit-rate, "" for none.
func (w *world) download(host, name, as, limit string) transfer {
	got := w.path(as)
	return transfer{append(curl(limit), "-o", got, "http://"+host+"/www/"+name), got}
}

func (w *world) upload(host, path, as, limit string) transfer {
	return transfer{append(curl(limit), "-T", path, "http://"+host+"/up/"+as), w.path("up/" + as)}
}

func curl(limit string) []string {
	args := []string{"-sS", "--fail", "--max-time", "60"}
	if limit != "" {
		args = append(args, "--limit-rate", limit)
	}
	return args
}

// do runs the transfer and compares what arrived with the sum of what was sent.
func (w *world) do(t transfer, want string) error {
	begin := time.Now()
	defer os.Remove(t.got)
	if _, err := w.client.Output(w.Context(), "curl", t.args...); err != nil {
		return fmt.Errorf("after %s: %w", time.Since(begin).Round(time.Millisecond), err)
	}
	sum, err := sumOf(t.got)
	if err != nil {
		return err
	}
	if sum != want {
		return errors.New(filepath.Base(t.got) + " is not what was sent")
	}
	return nil
}
