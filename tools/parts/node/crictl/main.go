// Command crictl is the part of the CRI client that kind, Cluster API's docker provider and people at a node ask for: ps, pods,
// images, inspecti IMAGE, version. Upstream's own module is not served by every Go proxy.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const socket = "unix:///run/containerd/containerd.sock"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: crictl ps [-a] | pods | images | inspecti IMAGE | version")
	}
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	runtime, images := cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	switch args[0] {
	case "version":
		return version(ctx, runtime)
	case "ps":
		return containers(ctx, runtime, slices.Contains(args[1:], "-a"))
	case "pods":
		return pods(ctx, runtime)
	case "images":
		return list(ctx, images)
	case "inspecti":
		return inspect(ctx, images, args[1:])
	}
	return fmt.Errorf("unknown command %q: there are ps, pods, images, inspecti and version", args[0])
}

func version(ctx context.Context, runtime cri.RuntimeServiceClient) error {
	v, err := runtime.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Println(v.RuntimeName, v.RuntimeVersion, v.RuntimeApiVersion)
	return nil
}

func containers(ctx context.Context, runtime cri.RuntimeServiceClient, all bool) error {
	r, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, c := range r.Containers {
		if all || c.State == cri.ContainerState_CONTAINER_RUNNING {
			state := strings.TrimPrefix(c.State.String(), "CONTAINER_")
			fmt.Printf("%.13s %-9s %s/%s\n", c.Id, state, c.Labels["io.kubernetes.pod.name"], c.Metadata.GetName())
		}
	}
	return nil
}

func pods(ctx context.Context, runtime cri.RuntimeServiceClient) error {
	r, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range r.Items {
		state := strings.TrimPrefix(p.State.String(), "SANDBOX_")
		fmt.Printf("%.13s %-9s %s/%s\n", p.Id, state, p.Metadata.GetNamespace(), p.Metadata.GetName())
	}
	return nil
}

func list(ctx context.Context, images cri.ImageServiceClient) error {
	r, err := images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	for _, i := range r.Images {
		fmt.Println(i.Id, strings.Join(i.RepoTags, ","), i.Size)
	}
	return nil
}

// inspect answers as upstream's crictl does, as far as kind reads it.
func inspect(ctx context.Context, images cri.ImageServiceClient, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("inspecti needs an image")
	}
	name := args[len(args)-1]
	r, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return err
	}
	if r.Image == nil {
		return fmt.Errorf("no such image %q present", name)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"status": map[string]any{
		"id": r.Image.Id, "repoTags": r.Image.RepoTags, "repoDigests": r.Image.RepoDigests, "size": fmt.Sprint(r.Image.Size),
	}})
}
