// Command etcd is the etcd server: upstream's own main lies in a module that cannot be required from outside its repository.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
