package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A Docker daemon whose command runs until it is asked for the third time, and whose log ends with the second.
func daemon(t *testing.T) string {
	asked := map[string]int{}
	mux := http.NewServeMux()
	answer := func(path, early, late string, after int) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			asked[path]++
			if asked[path] < after {
				io.WriteString(w, early)
			} else {
				io.WriteString(w, late)
			}
		})
	}
	answer("GET /v1.47/exec/a1/json", `{"Running":true}`, `{"Running":false,"ExitCode":3}`, 3)
	answer("GET /v1.47/exec/a2/json", `{"Running":true,"ExitCode":null}`, "", 1000)
	answer("GET /v1.47/exec/a3/json", `{"Running":false,"ExitCode":null}`, `{"Running":false,"ExitCode":0}`, 2)
	answer("GET /v1.47/containers/c1/logs", "entrypoint", "Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.", 2)
	answer("GET /v1.47/containers/c1/json", `{"Running":true}`, "", 2)
	mux.HandleFunc("POST /v1.47/exec/a1/start", func(w http.ResponseWriter, _ *http.Request) {
		connection, buffer, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer connection.Close()
		io.WriteString(connection, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		// The command's output is its input, once that has ended.
		input, _ := io.ReadAll(buffer)
		connection.Write(input)
	})
	return serve(t, "docker", mux)
}

func serve(t *testing.T, name string, handler http.Handler) string {
	socket := t.TempDir() + "/" + name
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

func ask(t *testing.T, socket, head string) string {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	head, input, _ := strings.Cut(head, "\n")
	io.WriteString(connection, head+" HTTP/1.1\r\nHost: docker\r\n"+input+"\r\n")
	if strings.Contains(input, "Upgrade") {
		buffer := make([]byte, 4096)
		connection.Read(buffer) // the head of the answer
		io.WriteString(connection, "of a file")
		connection.(*net.UnixConn).CloseWrite()
	}
	told, err := io.ReadAll(connection)
	if err != nil {
		t.Fatal(err)
	}
	return string(told)
}

func TestAnswers(t *testing.T) {
	socket := serve(t, "ours", pass(daemon(t)))
	const end = "\nConnection: close\r\n"
	for request, suffix := range map[string]string{
		"GET /v1.47/exec/a1/json" + end:                                      `{"Running":false,"ExitCode":3}`,
		"GET /v1.47/exec/a2/json" + end:                                      `{"Running":true,"ExitCode":null}`,
		"GET /v1.47/exec/a3/json" + end:                                      `{"Running":false,"ExitCode":0}`,
		"GET /v1.47/containers/c1/logs?tail=9" + end:                         "Multi-User System.",
		"GET /v1.47/containers/c1/json" + end:                                `{"Running":true}`,
		"POST /v1.47/exec/a1/start\nConnection: Upgrade\r\nUpgrade: tcp\r\n": "of a file",
	} {
		if told := ask(t, socket, request); !strings.HasSuffix(told, suffix) {
			t.Errorf("%q: %q", request, told)
		}
	}
	absent := serve(t, "absent", pass("/nowhere/docker.sock"))
	if told := ask(t, absent, "GET /_ping"+end); !strings.Contains(told, "502") || !strings.Contains(told, "cannot reach the Docker daemon: ") {
		t.Error(told)
	}
}
