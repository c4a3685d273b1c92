// Command docker-socket is Docker's socket as the docker provider of Cluster API sees it: two answers come when they say something.
//
// The provider sets up a machine by commands in its container, and writes a file by a command that reads it. It asks how the
// command ended as soon as its input is sent; it still runs then, and the provider sleeps for half a second: ten times for every
// control plane (ExecContainer). Before the first command it reads in the container's log whether its system is up
// (WaitForMultiUserTarget), once, a second after the start, and where that is too early not again for five. Here both questions
// are answered when it is so far, or shortly before they would be asked again. Everything else passes as it is.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path"
	"time"
)

// question is what is asked again when the answer came too early.
type question struct {
	// early says whether who asks would ask again.
	early func(told []byte) bool
	// patience is how long who asks would sleep, and pause the time between two looks meanwhile.
	patience, pause time.Duration
}

var (
	end = question{runs, 450 * time.Millisecond, 10 * time.Millisecond}
	up  = question{boots, 4 * time.Second, 100 * time.Millisecond}
)

// One that has not begun yet does not run either, and has no exit code: the provider would take that for its end, go on without the
// file, fail, and wait for five seconds.
func runs(told []byte) bool {
	var command struct {
		Running  bool
		ExitCode *int
	}
	return json.Unmarshal(told, &command) == nil && (command.Running || command.ExitCode == nil)
}

func boots(told []byte) bool {
	return !bytes.Contains(told, []byte("Multi-User System"))
}

func questionOf(request *http.Request) *question {
	whole := request.URL.Path
	is := func(kind, what string) bool {
		return path.Base(whole) == what && path.Base(path.Dir(path.Dir(whole))) == kind
	}
	switch {
	case request.Method != http.MethodGet:
		return nil
	case is("exec", "json"):
		return &end
	case is("containers", "logs") && !request.URL.Query().Has("follow"):
		return &up
	}
	return nil
}

type patient struct{ http.RoundTripper }

func (docker patient) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := questionOf(request)
	for began := time.Now(); ; {
		response, err := docker.RoundTripper.RoundTrip(request)
		if err != nil || asked == nil || response.StatusCode != http.StatusOK {
			return response, err
		}
		told, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return nil, err
		}
		if !asked.early(told) || time.Since(began) > asked.patience {
			response.Body = io.NopCloser(bytes.NewReader(told))
			return response, nil
		}
		select {
		case <-request.Context().Done():
			return nil, request.Context().Err()
		case <-time.After(asked.pause):
		}
	}
}

// pass is a handler that passes everything on to the Docker daemon at a socket.
func pass(docker string) http.Handler {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", docker)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.Out.URL.Scheme, request.Out.URL.Host = "http", "docker"
		},
		Transport:     patient{&http.Transport{DialContext: dial, DisableCompression: true}},
		FlushInterval: -1,
		// In the form of Docker's own errors, which its clients show.
		ErrorHandler: func(writer http.ResponseWriter, _ *http.Request, err error) {
			writer.Header().Set("Content-Type", "application/json")
			writer.WriteHeader(http.StatusBadGateway)
			json.NewEncoder(writer).Encode(map[string]string{"message": "cannot reach the Docker daemon: " + err.Error()})
		},
	}
}

func main() {
	listen := flag.String("listen", "", "the socket that is asked")
	docker := flag.String("docker", "/var/run/docker.sock", "the socket of the Docker daemon")
	flag.Parse()
	if err := os.Remove(*listen); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, pass(*docker)))
}
