// An SSH server for the tests: whoever holds the key of the file AUTHORIZED may read the Git repositories below ROOT, as from a site's
// server. It prints its address, and its host key as a line of a file known_hosts.
//
//	ssh-server ROOT AUTHORIZED
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: ssh-server ROOT AUTHORIZED")
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(root, authorized string) error {
	text, err := os.ReadFile(authorized)
	if err != nil {
		return err
	}
	allowed, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if meta.User() != "git" || string(key.Marshal()) != string(allowed.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	fmt.Println(address)
	fmt.Println(knownhosts.Line([]string{address}, signer.PublicKey()))
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			// Whoever is refused, or does not trust the host key, hangs up.
			_, channels, requests, err := ssh.NewServerConn(conn, config)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			for channel := range channels {
				go session(root, channel)
			}
		}()
	}
}

// session answers one request to run a program: git-upload-pack, with a path below root.
func session(root string, opened ssh.NewChannel) {
	if opened.ChannelType() != "session" {
		_ = opened.Reject(ssh.UnknownChannelType, "sessions only")
		return
	}
	channel, requests, err := opened.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for request := range requests {
		var asked struct{ Command string }
		if request.Type != "exec" || ssh.Unmarshal(request.Payload, &asked) != nil {
			_ = request.Reply(false, nil)
			continue
		}
		_ = request.Reply(true, nil)
		code := run(root, asked.Command, channel)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}

func run(root, asked string, channel ssh.Channel) uint32 {
	path, ok := strings.CutPrefix(asked, "git-upload-pack ")
	if !ok {
		fmt.Fprintln(channel.Stderr(), "ERROR: this server is for reading")
		return 1
	}
	folder := filepath.Join(root, filepath.Clean("/"+strings.Trim(path, "'")))
	if _, err := os.Stat(folder); err != nil {
		fmt.Fprintln(channel.Stderr(), "ERROR: there is no such repository")
		return 1
	}
	command := exec.Command("git", "upload-pack", folder)
	command.Stdin, command.Stdout, command.Stderr = channel, channel, channel.Stderr()
	if err := command.Run(); err != nil {
		return 1
	}
	return 0
}
