// Writes through go-redis' FailoverClient until standard input ends. See ../README.md for what it is told and says.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

func main() {
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		SentinelAddrs:    strings.Split(os.Args[1], ","),
		MasterName:       os.Args[2],
		Password:         os.Args[3],
		SentinelPassword: os.Args[3],
		DialTimeout:      time.Second,
		ReadTimeout:      time.Second,
	})
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	for number := 0; !ended.Load(); number++ {
		if err := client.Set(context.Background(), fmt.Sprintf("go:%d", number), number, 0).Err(); err != nil {
			fmt.Printf("error %d %v\n", number, err) // an application would go on, too
		} else {
			fmt.Printf("ok %d\n", number)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
