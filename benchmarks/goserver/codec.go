package main

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec codes kvproto's messages by the methods generated for them, and others (health) by the protobuf library.
type codec struct{}

type generated interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message any) (mem.BufferSlice, error) {
	switch m := message.(type) {
	case generated:
		data := make([]byte, m.Size())
		if _, err := m.MarshalToSizedBuffer(data); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	case proto.Message:
		data, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(data)}, err
	}
	return nil, fmt.Errorf("no way to code %T", message)
}

// Unmarshal copies out of the transport's buffer: kvproto's code keeps no reference to what it reads from.
func (codec) Unmarshal(data mem.BufferSlice, message any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	switch m := message.(type) {
	case generated:
		return m.Unmarshal(buffer.ReadOnlyData())
	case proto.Message:
		return proto.Unmarshal(buffer.ReadOnlyData(), m)
	}
	return fmt.Errorf("no way to read %T", message)
}
