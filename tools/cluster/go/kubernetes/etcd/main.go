// Command etcd is the etcd server, and nothing else: its own main sits in a module that can't be required.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
